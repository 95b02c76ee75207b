# An image for TPUs: docker build --file launch/container/tpu.Dockerfile --tag tpgdiff-tpu .
# libtpu comes with JAX's extra; the flags of launch/env/tpu.sh are set here.
FROM python:3.12-slim

WORKDIR /tpgdiff_jax
# What decides the packages comes first, so that a change of the code installs none of them again.
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt 'jax[tpu]' gcsfs s3fs
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

ENV PYTHONUNBUFFERED=1
ENV LIBTPU_INIT_ARGS="--xla_tpu_enable_async_collective_fusion=true --xla_enable_async_all_gather=true --xla_tpu_enable_data_parallel_all_reduce_opt=true"
# No shell in between: SIGTERM must reach the program, which saves then.
ENTRYPOINT ["python", "-m", "tpgdiff_jax.main"]
