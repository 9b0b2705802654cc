# CPU: docker build -t segmentation-reproductions .
# GPU: docker build -t segmentation-reproductions:gpu --build-arg EXTRA=gpu .
# Run: docker run --rm -v "$PWD:/data" segmentation-reproductions fetal_brain predict scan.nii.gz -o labels.nii.gz --run run
FROM python:3.12-slim-bookworm
ARG EXTRA=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
COPY . .
RUN make setup
RUN test -z "$EXTRA" || .venv/bin/python -m pip install --no-cache-dir ".[$EXTRA]"
ENV PATH="/suite/.venv/bin:$PATH"
WORKDIR /data
ENTRYPOINT ["python", "-m"]
CMD ["common", "--help"]
