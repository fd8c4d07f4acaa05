"""The inputs of a labelling job: what its patterns name, compared with the run in its output folder."""

from collections.abc import Callable

from jobs.arguments.label import LabelJob
from jobs.cluster.driving import print_warning
from jobs.command_line.console import print_lines
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.errors import GrowthConflictError
from pipeline.inputs.first_look import look_at_tags
from pipeline.inputs.patterns.first_bytes import MAX_LOOKS, require_archives
from pipeline.run.config import InputConfig
from pipeline.run.records import INDEX_FOLDER, INDEX_PREFIX, RUN_FILE, InputShard
from pipeline.run.run_file import MAX_RIVALS, Run, read_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri

Shards = tuple[InputShard, ...]


def find_shards(job: LabelJob, inputs: InputConfig, vocabulary: Vocabulary, scratch: str | None) -> Shards:
    """List the inputs of a job, and look at those that its run does not have yet.

    Args:
        job: The job.
        inputs: Its settings of inputs, completed.
        vocabulary: Classes that tags name.
        scratch: Folder for new index shards in place of the output; for a dry run.

    Raises:
        LabellingError: They cannot be found or used.
        OSError: A store failed.
    """
    is_begun = exists(join_uri(job.out, RUN_FILE))
    recorded = read_run(job.out)["inputs"] if is_begun else []
    index = IndexPlace(
        join_uri(job.out, INDEX_FOLDER),
        is_begun=is_begun,
        scratch_uri=scratch,
        recorded=tuple(uri.rpartition("/")[2] for uri, name, *_ in recorded if name.startswith(INDEX_PREFIX)),
    )
    shards = find_inputs(job.shards, inputs, index, print_lines, print_warning, extend=job.run.extend)
    # Shards of a run that has begun may have been lost since; the run goes on with the others.
    known = {entry[0] for entry in recorded}
    new = [shard for shard in shards if shard.uri not in known]
    if job.run.extend or not is_begun:
        require_archives(new, print_warning)
        for warning in look_at_tags(
            new,
            inputs,
            vocabulary,
            num_looks=MAX_LOOKS if is_begun else 1,
            allow_nothing_labelled=job.allow_nothing_labelled,
        ):
            print_warning(warning)
    return shards


def open_listed_run(
    shards: Shards,
    find: Callable[[], Shards],
    open_with: Callable[[Shards], Run],
    on_warning: Callable[[str], None],
) -> tuple[Run, int]:
    """Open a run with the inputs that were found; find them again if another driver listed its collection meanwhile.

    Args:
        shards: As found.
        find: Finds the inputs again.
        open_with: Opens the run with them.
        on_warning: Called with a sentence before they are found again.

    Returns:
        The run, and the number of inputs that were found last.

    Raises:
        GrowthConflictError: Other drivers keep changing the run.
    """
    for _ in range(MAX_RIVALS):
        try:
            return open_with(shards), len(shards)
        except GrowthConflictError as error:
            on_warning(f"{str(error).partition(';')[0]}; listing it again")
        shards = find()
    return open_with(shards), len(shards)
