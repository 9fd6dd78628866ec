"""llama.cpp's own HTTP server on 127.0.0.1, from the package `xllamacpp`, until it is ended."""

import argparse
import signal
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a file in GGUF")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4, help="requests that are worked on at once")
    parser.add_argument("--context", type=int, default=4096, help="tokens of each of them")
    args = parser.parse_args()
    try:
        import xllamacpp
    except ModuleNotFoundError:
        sys.exit("the package xllamacpp is missing: pip install 'posthouse[llama]'")
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.hostnames, params.port = ["127.0.0.1"], args.port
    params.n_parallel, params.n_ctx = args.slots, args.slots * args.context
    params.kv_unified = False  # so that each slot has its part
    params.use_jinja = True
    server = xllamacpp.Server(params)  # which listens until it is dropped
    signal.pause()
    del server


if __name__ == "__main__":
    main()
