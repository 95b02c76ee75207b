# shellcheck shell=bash
# Settings for GPUs; source it before a run.  What is set already stays.
#
# Each setting stands with its reason.  None of them was measured with this program yet.

# Memory: JAX takes three quarters of a GPU at its start.  A run that has the GPU for itself may take
# more.  Not measured.  JAX ends where both of its names for this are set.
[ -n "${XLA_CLIENT_MEM_FRACTION:-}" ] ||
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}

# Several GPUs: start the sums of gradients (all-reduce) while the backward pass still computes the
# next ones.  Changes nothing on one GPU.  Not measured.
case " ${XLA_FLAGS:-} " in
    *xla_gpu_enable_latency_hiding_scheduler*) ;;
    *) export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true" ;;
esac

# Tell of a hung message between GPUs in the log instead of waiting silently.  Costs nothing known;
# not measured.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
