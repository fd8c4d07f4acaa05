"""Print the RGB pixels that OpenCV decodes from encoded images, turned by their EXIF or as they are stored."""

import base64
import json
import sys

import cv2
import numpy as np


def main() -> None:
    """Read the arguments from standard input, print the version and the images."""
    arguments = json.load(sys.stdin)
    flags = cv2.IMREAD_COLOR if arguments["turns"] else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    payloads = [np.frombuffer(base64.b64decode(text), np.uint8) for text in arguments["images"]]
    images = [np.asarray(cv2.imdecode(payload, flags))[..., ::-1].tolist() for payload in payloads]
    sys.stdout.write(json.dumps({"version": cv2.__version__, "images": images}))


if __name__ == "__main__":
    main()
