"""Writes some seconds of speech as WAV, 16 kHz: what a worker that hears is measured with.

`speech.wav` is a sentence said by piper with its voice en_US-joe-medium, and half a second of silence.
"""

import argparse
import wave
from pathlib import Path

SENTENCE = "The courier changes horses at the post house, and rides on through the night."


def write(file: Path, seconds: float) -> None:
    """Write the sentence over and over, until it lasts so long."""
    with wave.open(str(Path(__file__).with_name("speech.wav"))) as said, wave.open(str(file), "wb") as out:
        frames = said.readframes(said.getnframes())
        out.setparams(said.getparams())
        size = int(seconds * said.getframerate()) * said.getsampwidth()
        out.writeframes((frames * (size // len(frames) + 1))[:size])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    write(args.file, args.seconds)
