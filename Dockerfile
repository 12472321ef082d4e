# syntax=docker/dockerfile:1
# CPU by default. With --build-arg CUDA=1 the container asks the NVIDIA runtime for its GPUs; the torch wheel is the same
# (the default wheel carries its CUDA libraries and runs on the CPU without a driver). Where a smaller CPU-only torch with
# its matching torchvision is at hand, name its index: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY embedkd embedkd
COPY data data
COPY pipelines pipelines
RUN python -m venv /opt/embedkd \
    && /opt/embedkd/bin/pip install build \
    && /opt/embedkd/bin/python -m build --wheel --outdir /wheels \
    && python -m venv --clear /opt/embedkd \
    && /opt/embedkd/bin/pip install /wheels/*.whl

FROM python:${PYTHON}-slim AS run
ARG CUDA=""
COPY --from=build /opt/embedkd /opt/embedkd
RUN useradd --create-home --uid 1000 embedkd \
    && mkdir /data && chown embedkd /data
# An empty NVIDIA_VISIBLE_DEVICES keeps the NVIDIA runtime away; "all" hands it every GPU that docker run --gpus allows.
ENV PATH=/opt/embedkd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=${CUDA:+all}
USER embedkd
WORKDIR /data
ENTRYPOINT ["embedkd"]
CMD ["--help"]
