"""A harness for verifiers that asks once, in its own process: the `null` harness of verifiers does the same
in a program of its own, for which it downloads a Python. Its id is `one-request`."""

import httpx
import verifiers.v1 as vf

__all__ = ["OneRequestHarness"]


class OneRequestConfig(vf.HarnessConfig):
    pass


class OneRequestHarness(vf.Harness[OneRequestConfig]):
    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data):
        asked = {"model": ctx.model, "messages": [{"role": "user", "content": data.prompt}]}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            response = await client.post(
                f"{endpoint}/chat/completions",
                json=asked,
                headers={"Authorization": f"Bearer {secret}"},
            )
        return vf.ProgramResult(
            exit_code=int(response.is_error), stdout="", stderr=response.text * response.is_error
        )
