# syntax=docker/dockerfile:1
# The app on a CPU: the page and what serves it, as a user that is not root.
#     docker build -t two-stage-retrieval .
#     docker run --rm -p 127.0.0.1:7860:7860 -v retrieval:/data two-stage-retrieval
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
# torch first and alone: it is the largest part and changes least.
COPY constraints.txt ./
RUN pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
    "$(grep '^torch==' constraints.txt)+cpu"
COPY pyproject.toml README.md LICENSE ./
COPY retrieval retrieval
COPY app app
RUN pip install -c constraints.txt .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin retrieval \
    && install -d -o retrieval -g retrieval /data
COPY --from=build /venv /venv
# /data keeps the collections and the models that were fetched.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/data/models \
    RETRIEVAL_STORE=/data/store
USER retrieval
WORKDIR /data
VOLUME /data
EXPOSE 7860
# The first start indexes before it answers, so it is given time.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["retrieval"]
CMD ["demo", "--host", "0.0.0.0", "--public"]
