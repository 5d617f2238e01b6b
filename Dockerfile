# The operator's image: what requirements/runtime.txt locks, and the package. Nothing is written at run time, so the
# root filesystem may be read-only. Build it from the root of the repository:
#   docker build --tag vllm-operator:0.1.0 .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
COPY requirements/runtime.txt /src/requirements/runtime.txt
# The environment holds no pip of its own; the one of the base image fills it.
RUN python -m venv --without-pip /opt/vllm-operator \
 && python -m pip --python /opt/vllm-operator/bin/python install \
      --no-cache-dir --disable-pip-version-check --require-hashes --requirement /src/requirements/runtime.txt
COPY operator/vllm_operator /opt/vllm-operator/lib/python3.11/site-packages/vllm_operator
# Compiled here, because a read-only filesystem takes no bytecode later.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/vllm-operator/lib

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/vllm-operator /opt/vllm-operator
ENV PATH=/opt/vllm-operator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
ENTRYPOINT ["python", "-m", "vllm_operator"]
CMD ["run"]
