# maskora with Ray, for scripts/kuberay-job.yaml and for one machine:
#   docker build --tag maskora:0.1.0 .
#   docker run --gpus all --volume "$PWD":/data maskora:0.1.0 maskora doctor
# torch brings its own CUDA libraries; of the base image the settings for the driver are used.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# Ubuntu keeps one version of a package alone, so that a pinned one would be gone after its update.
# wget is what KubeRay asks a node with whether it lives.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 maskora \
    && mkdir /data \
    && chown maskora /data

COPY . /opt/maskora/
# ray[default] has the server that a RayJob is submitted to. A login shell, as KubeRay starts one,
# may set a PATH of its own, so the commands are linked to where that looks.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir \
        --constraint /opt/maskora/constraints.txt "/opt/maskora[cluster]" "ray[default]" \
    && ln -s /opt/venv/bin/maskora /opt/venv/bin/ray /usr/local/bin/

USER 10001
WORKDIR /data
ENV PYTHONUNBUFFERED=1 HF_HOME=/data/huggingface XDG_CACHE_HOME=/data/cache
CMD ["maskora", "--help"]
