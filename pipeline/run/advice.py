"""What helps when samples are rejected, or members of an archive are passed over."""

from pipeline.run.records import PassedOver, Reason

FOR_REJECTED = {
    Reason.NO_IMAGE: "give the images their suffix (jpg, png, webp, gif, bmp, tiff, avif) and the key of their tags; "
    "where the archive holds links, pack it with --dereference --hard-dereference",
    Reason.UNDECODABLE: "open one of the images with another program, and copy the shard again if they are damaged",
    Reason.TOO_LARGE: "raise --inputs.max-image-pixels or --inputs.max-image-bytes",
    Reason.DOWNLOAD_FAILED: "download the images again",
    Reason.BAD_TAGS: "look at the tags of one sample, and name their field or column with --inputs.tags-field",
    Reason.NO_KNOWN_TAG: "compare the tags with the classes of the vocabulary and give them aliases there, or name "
    "another field or column with --inputs.tags-field",
    Reason.NOT_IN_TAGS_TABLE: "compare the keys of the samples with those of --inputs.tags-table",
    Reason.DUPLICATE_KEY: "give every sample of a shard a key of its own",
    Reason.SPLIT_SAMPLE: "sort the members of the archive by name, as tar --sort=name does",
    Reason.DOTTED_NAME: "give --inputs.key last-dot if each of these images is a sample of its own",
    Reason.CRASHED: "look at these images, and at the logs of the workers",
    Reason.OUT_OF_MEMORY: "label on a device with more memory, or with fewer patches (--views.num-patches)",
    Reason.NOT_FINITE: "check the weights of the model",
    Reason.NOT_FOUND: "compare the paths of the table with the files there; --inputs.image-root names the folder that "
    "they start at, and --inputs.image-column their column",
    Reason.CHANGED: "label the collection as it is now under a new --out",
}

FOR_PASSED_OVER = {
    PassedOver.SYMBOLIC_LINK: "pack the archive with --dereference if they stand for files",
    PassedOver.SECOND_MEMBER: "give every sample a key of its own, with its image before its other members",
    PassedOver.SECOND_IMAGE: "give every image a key of its own if each is a sample",
    PassedOver.DOTTED_IMAGE: "give --inputs.key last-dot if each is a sample of its own",
    PassedOver.IN_HIDDEN_FOLDER: "rename the folder if it holds samples",
    PassedOver.NO_SUFFIX: "give them a suffix if they are images or tags",
    PassedOver.TRUNCATED: "copy the archive again",
}
"""Kinds that may be samples of the collection; the others are what they seem."""
