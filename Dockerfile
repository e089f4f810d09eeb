# docker build --tag poisonbench .
# docker build --tag poisonbench:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# docker run --rm --volume "$PWD/work:/bench" poisonbench quickstart
# docker run --rm --gpus all --volume "$PWD/work:/bench" poisonbench:cuda doctor --device cuda
FROM python:3.11-slim-bookworm

# CPU by default; another of PyTorch's indexes brings the libraries of CUDA, which need no base image.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# "[dask]" for workers of a cluster.
ARG EXTRAS=""

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY poisonbench poisonbench
RUN python -m pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" ".$EXTRAS" \
    && useradd --create-home --uid 1000 poisonbench \
    && install --directory --owner=poisonbench /bench

USER 1000
WORKDIR /bench
ENV POISONBENCH_RESULTS=/bench/results POISONBENCH_DATA=/bench/data
ENTRYPOINT ["poisonbench"]
CMD ["--help"]
