"""What --extend did to a run."""

from pipeline.run.run_file import Run


def print_extension(run: Run, num_listed: int, *, is_dry: bool) -> None:
    """Print how many shards were added to a run, and how many it has beside the listed ones.

    Args:
        run: As opened with `extend`.
        num_listed: Number of shards that the command lists.
        is_dry: Whether the run was opened without writing.
    """
    num_added = len(run.shards) - run.num_before
    noun = "index shards" if run.shards[0].is_index else "shards"
    if not run.num_before:
        verb = "would start" if is_dry else "starts"
        print(f"no run is in {run.out_uri} yet: this command {verb} one of {num_added} {noun}", flush=True)
        return
    if num_added:
        verb = "would add" if is_dry else "adds"
        print(f"--extend {verb} {num_added} {noun} to the {run.num_before} of the run in {run.out_uri}", flush=True)
    else:
        print(f"--extend adds nothing: the run in {run.out_uri} has all {num_listed} given {noun}", flush=True)
    if num_kept := len(run.shards) - num_listed:
        print(f"the run also has {num_kept} shards that this command does not name; they stay in it", flush=True)
