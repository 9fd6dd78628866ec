"""Asks the model `chat` of a gateway, with OpenAI's client, and prints the answer as it comes: `ask.py [QUESTION]`."""

import os
import sys
from pathlib import Path

from openai import OpenAI

url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8081/v1")
client = OpenAI(base_url=url, api_key=Path("posthouse-data/admin-key").read_text().strip())
answer = client.chat.completions.create(
    model="chat",
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "What is Deep Learning?"}],
    max_tokens=32,
    stream=True,
)
for chunk in answer:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
