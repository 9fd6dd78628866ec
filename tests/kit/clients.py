"""Programs that are clients."""

CLIENTS = """\
import asyncio, json, sys
from vastai import Serverless

url, key, rate, name = sys.argv[1:]
Serverless.SSL_CERT_URL = f"{url}/static/jvastai_root.cer"

async def one(endpoint, answers, errors):
    try:
        payload = {"inputs": "Hi", "parameters": {"max_new_tokens": 5}}
        answer = await endpoint.request("/generate", payload, cost=5)
        answers.append(bool(answer["response"]["generated_text"]))
    except Exception as error:
        errors.append(repr(error))

async def main():
    answers, errors, asked = [], [], set()
    async with Serverless(key, autoscaler_url=url, webserver_url=url) as client:
        endpoint = await client.get_endpoint(name)
        print("begins", flush=True)
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not ended.done() or len(asked) <= 20:
            asked.add(asyncio.create_task(one(endpoint, answers, errors)))
            await asyncio.sleep(1 / float(rate))
        await asyncio.wait(asked, timeout=60)
    print(json.dumps({"asked": len(asked), "right": sum(answers), "errors": errors[:10]}))

asyncio.run(main())
"""
"""Requests at a set rate through the protocol's own client, with its own pool of connections, until its input ends."""
