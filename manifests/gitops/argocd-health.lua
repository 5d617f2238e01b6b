-- Health of a VLLMDeployment for Argo CD, from its kstatus conditions. Put it into the ConfigMap argocd-cm under
-- resource.customizations.health.vllm-operator.dev_VLLMDeployment
local conditions = {}
if obj.status ~= nil and obj.status.observedGeneration == obj.metadata.generation then
  for _, condition in ipairs(obj.status.conditions or {}) do
    conditions[condition.type] = condition
  end
end

local ready, stalled = conditions["Ready"], conditions["Stalled"]
if ready == nil then
  return {status = "Progressing", message = "the operator has not looked at this generation yet"}
end
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = stalled.reason .. ": " .. stalled.message}
end
if ready.status ~= "True" then
  return {status = "Progressing", message = ready.reason .. ": " .. ready.message}
end
if ready.reason == "Suspended" then
  return {status = "Suspended", message = ready.message}
end
return {status = "Healthy", message = ready.message}
