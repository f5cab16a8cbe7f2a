# The page, the API and the commands of san_tf: docker build --tag san-tf:1.0.0 .
# With a GPU: docker build --build-arg EXTRAS=page,gallery,parquet,gpu --tag san-tf:1.0.0-gpu .
# requirements.lock is of Python 3.11, so that the image has the versions that the tests ran with.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRAS=page,gallery,parquet
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/san_tf
ENV PATH=/opt/san_tf/bin:$PATH
WORKDIR /src
COPY requirements.lock setup.cfg pyproject.toml README.md LICENSE ./
COPY san_tf san_tf
COPY datasets datasets
COPY saved_models saved_models
RUN pip install --constraint requirements.lock ".[${EXTRAS}]"

FROM python:${PYTHON}
RUN groupadd --gid 1000 san && useradd --uid 1000 --gid san --create-home san
COPY --from=build /opt/san_tf /opt/san_tf
# TensorFlow's notes at the start are left out; its errors are not.
ENV PATH=/opt/san_tf/bin:$PATH PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
USER 1000:1000
WORKDIR /data
EXPOSE 8642
# The first start loads the encoder, which takes some seconds.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8642/healthz', timeout=4)"]
ENTRYPOINT ["san-tf"]
# Without tokens (--tokens or SAN_TF_TOKENS) it refuses to start, because it listens to other machines.
CMD ["serve-ui", "--gallery", "/data/people.gallery", "--host", "0.0.0.0"]
