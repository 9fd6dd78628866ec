"""Sends a picture to the endpoint `ocr` and prints the text in it: python ask.py PICTURE

POSTHOUSE_URL and POSTHOUSE_API_KEY say where and with which key.
"""

import base64
import sys
from pathlib import Path

from posthouse.client import Client, ClientError

picture = Path(sys.argv[1]).read_bytes()
try:
    with Client() as client:
        answer = client.request(
            "ocr",
            "/ocr",
            {"image": base64.b64encode(picture).decode()},
            cost=1,  # the unit of work of this endpoint is one picture
            on_waiting=lambda waiting: print(f"waiting for a worker: {waiting.status}", file=sys.stderr),
        )
except ClientError as error:
    sys.exit(str(error))
print(answer.json()["text"])
