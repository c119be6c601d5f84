# syntax=docker/dockerfile:1
# The app: the page and what serves it, as a user that is not root.
#     docker build -t two-stage-retrieval .                               on a CPU
#     docker build -f Dockerfile.cuda -t two-stage-retrieval:cuda .       on an NVIDIA GPU
#     docker run --rm -p 127.0.0.1:7860:7860 -v retrieval:/data two-stage-retrieval
# That is the demo. The service for programs, with API keys:
#     docker run --rm -v retrieval:/data two-stage-retrieval keys create me --keys-file /data/keys.json
#     docker run --rm -p 127.0.0.1:7860:7860 -v retrieval:/data two-stage-retrieval \
#         serve --host 0.0.0.0 --keys-file /data/keys.json
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# torch's build: a part of https://download.pytorch.org/whl (cpu, cu126, rocm…), or `default`, that
# of PyPI, which brings CUDA's libraries and needs nothing but the driver of the machine. Where `cpu`
# cannot be fetched, `default` is taken.
ARG TORCH=cpu
# Extras of the package, such as `files` or `files,scale`.
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
# torch first and alone: it is the largest part and changes least.
COPY constraints.txt ./
RUN torch="$(grep '^torch==' constraints.txt)" \
    && if [ "$TORCH" = default ]; then \
        pip install -c constraints.txt "$torch"; \
    elif pip install -c constraints.txt --retries 2 \
            --extra-index-url "https://download.pytorch.org/whl/$TORCH" "$torch+$TORCH"; then \
        :; \
    elif [ "$TORCH" = cpu ]; then \
        echo "NOTICE: the CPU build of torch cannot be had from download.pytorch.org. The default" \
            "build is installed instead: it brings CUDA's libraries, gigabytes to download" >&2; \
        pip install -c constraints.txt "$torch"; \
    else \
        exit 1; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY retrieval retrieval
COPY app app
RUN pip install -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"
# The weights of the starter models, so that a container works where nothing can be fetched.
RUN RETRIEVAL_WEIGHTS=/weights retrieval models get starter

FROM python:${PYTHON}-slim
# /key is where docker-compose.yml keeps the key of its Qdrant servers.
RUN groupadd --gid 10001 retrieval \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin retrieval \
    && install -d -o retrieval -g retrieval /data /key
COPY --from=build /venv /venv
COPY --from=build --chown=retrieval:retrieval /weights /weights
# /data keeps the collections and the models that were fetched.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/data/models \
    RETRIEVAL_WEIGHTS=/weights \
    RETRIEVAL_STORE=/data/store
USER retrieval
WORKDIR /data
VOLUME /data
EXPOSE 7860
# The first start fetches models, or indexes, before it is ready, so it is given time.
HEALTHCHECK --interval=15s --timeout=15s --start-period=10m --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/readyz', timeout=12)"]
ENTRYPOINT ["retrieval"]
CMD ["demo", "--host", "0.0.0.0", "--public"]
