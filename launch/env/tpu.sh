# shellcheck shell=bash
# Settings for TPUs; source it before a run.  What is set already stays.
#
# Each setting stands with its reason.  None of them was measured: no TPU was at hand.  The flags are
# those that libtpu 0.0.52 knows (tests/launch/test_environments.py compiles with them).

# Start sums and exchanges between chips while the next products are computed, so that the link and
# the matrix units work at the same time.  Not measured.
for flag in \
    --xla_tpu_enable_async_collective_fusion=true \
    --xla_enable_async_all_gather=true \
    --xla_tpu_enable_data_parallel_all_reduce_opt=true; do
    case " ${LIBTPU_INIT_ARGS:-} " in
        *"${flag%%=*}"*) ;;
        *) export LIBTPU_INIT_ARGS="${LIBTPU_INIT_ARGS:+$LIBTPU_INIT_ARGS }$flag" ;;
    esac
done
unset flag
