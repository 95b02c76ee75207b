"""What --mode=plan does, from checked configuration to the last line printed."""

from absl.flags import FlagValues
from ml_collections import ConfigDict

from tpgdiff_jax.planning import plan, report
from tpgdiff_jax.planning.chips import known_topologies
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.outputs import writing
from tpgdiff_jax.stores.places import shown

PLAN = "plan.json"  # where --mode=plan writes without --output; it says so at its end


def run(config: ConfigDict, flags: FlagValues) -> None:
    """Compile what a configuration would run on pods; print and write what that needs.

    Args:
      config: the checked configuration.
      flags: `topology`, `mesh`, `what`, `by`, `remedies` and `output`.
    """
    if not flags.topology:
        raise UserError(f"--mode=plan needs --topology; known are {known_topologies()}.")
    records = []
    try:
        for record in plan.plan(
            config, flags.topology, flags.what, flags.mesh, remedy=flags.remedies
        ):
            records.append(record)
            print(f"\n{report.table([record])}", flush=True)
            if record.get("messages"):
                print(f"\n{report.message_table(record)}", flush=True)
            if flags.by == "operation" and "movers" in record:
                print(f"\n{report.mover_table(record)}", flush=True)
        if len(records) > 1:
            print(f"\n{report.table(records)}")
    finally:  # what took minutes is kept, whatever ends the rest
        if records:
            with writing(flags.output or PLAN, replaces=True) as output:
                report.write(output, records)
            print(f"\nWritten: {shown(output)}", flush=True)
