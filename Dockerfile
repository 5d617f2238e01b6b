# The operator's image: what requirements/runtime.txt locks, and the package. Nothing is written at run time, so the
# root filesystem may be read-only. From the root of the repository:
#   docker build --tag vllm-operator:0.1.0 .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# The environment holds no pip of its own; the one of the base image fills it.
RUN python -m venv --without-pip /opt/vllm-operator \
 && python -m pip --python /opt/vllm-operator/bin/python install \
      --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements/runtime.txt \
 && python -m pip install \
      --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN python -m pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
 && python -m pip --python /opt/vllm-operator/bin/python install --no-deps --no-index /dist/*.whl
# Compiled here, because a read-only filesystem takes no bytecode later.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/vllm-operator/lib

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/vllm-operator /opt/vllm-operator
# A user without an entry in /etc/passwd has no home, and the Kubernetes client asks for one as it is imported.
ENV HOME=/ \
    PATH=/opt/vllm-operator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
ENTRYPOINT ["vllm-operator"]
CMD ["run"]
