# The server, in an image of its own: docker build -t posthouse .
# BASE may be any image with Python 3.11 to 3.13 and venv; both stages must use the same one.
# EXTRAS are further extras of the package: docker build --build-arg EXTRAS=kubernetes -t posthouse .
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python3 -m venv /opt/posthouse
COPY requirements.lock ./
# What draws pictures (of `demo` and `simulate`) is a third of the size, and a server draws none.
RUN /opt/posthouse/bin/pip install --require-hashes -r requirements.lock && \
    /opt/posthouse/bin/pip uninstall -y matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN /opt/posthouse/bin/pip install --no-deps . && \
    if [ -n "${EXTRAS}" ]; then /opt/posthouse/bin/pip install ".[${EXTRAS}]"; fi && \
    /opt/posthouse/bin/pip uninstall -y pip setuptools

FROM ${BASE}
LABEL org.opencontainers.image.title="Posthouse" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home posthouse && install -d -o posthouse -g posthouse -m 700 /data
COPY --from=build /opt/posthouse /opt/posthouse
ENV PATH=/opt/posthouse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    POSTHOUSE_DATA_DIR=/data \
    POSTHOUSE_SERVER__HOST=0.0.0.0
USER posthouse
WORKDIR /home/posthouse
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["posthouse"]
CMD ["serve"]
