# An image for NVIDIA GPUs: docker build --file launch/container/gpu.Dockerfile --tag tpgdiff-gpu .
# The GPU's libraries come with JAX's wheels; the host needs its driver and the container toolkit.
FROM python:3.12-slim

WORKDIR /tpgdiff_jax
# What decides the packages comes first, so that a change of the code installs none of them again.
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt 'jax[cuda13]' gcsfs s3fs
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

ENV PYTHONUNBUFFERED=1
# No shell in between: SIGTERM must reach the program, which saves then.
ENTRYPOINT ["python", "-m", "tpgdiff_jax.main"]
