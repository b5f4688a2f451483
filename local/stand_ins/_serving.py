"""Answer the Pulumi engine over gRPC, as a plugin does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.provider import Provider
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from local.stand_ins._plugin import PROPOSED_NAME, InitializationError, StandInError

MAXIMAL_MESSAGE = 400 * 1024 * 1024  # bytes; the limit of Pulumi's own plugins


def serve(provider: Provider, version: str) -> None:
    """Run the plugin: print the port on standard output, then answer the engine until the engine ends the process.

    `pulumi.provider.experimental.server.main` does the same, but turns each failure into a traceback and cannot report
    a resource that was created and then failed.
    """

    async def run() -> None:
        limits = [("grpc.max_receive_message_length", MAXIMAL_MESSAGE), ("grpc.max_send_message_length", -1)]
        server = grpc.aio.server(interceptors=[_PlainFailures()], options=limits)
        servicer = _Servicer(sys.argv[1:], version, provider, engine_address=sys.argv[1])
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        # Pulumi ends a plugin after the last answer. Nothing needs cleanup, and a clean end of grpc takes longer.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
        print(port, flush=True)
        await server.wait_for_termination()

    if len(sys.argv) < 2:
        sys.exit(f"{sys.argv[0]} is a Pulumi plugin: `pulumi` starts the plugin and passes the engine's address")
    asyncio.run(run())


class _Servicer(ProviderServicer):
    """Reads the names that the engine proposes. The SDK's own servicer ignores these names."""

    async def Configure(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the RPC
        response = await super().Configure(request, context)
        response.supports_autonaming_configuration = True
        return response

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        PROPOSED_NAME.set(request.autonaming.proposed_name)
        return await super().Check(request, context)


class _PlainFailures(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Answers a StandInError with its message. Other exceptions keep their traceback."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except Exception as error:
                # The SDK wraps the provider's exception in an exception with the traceback as its message.
                cause = error if isinstance(error, StandInError) else error.__context__
                if not isinstance(cause, StandInError):
                    raise
                await context.abort(grpc.StatusCode.UNKNOWN, str(cause), _initialization_details(cause))

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _initialization_details(error: StandInError) -> tuple[tuple[str, bytes], ...]:
    if not isinstance(error, InitializationError):
        return ()
    failed = provider_pb2.ErrorResourceInitFailed(
        id=error.resource_id, properties=PropertyValue.marshal_map(error.outputs), reasons=[str(error)]
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))
    status.details.add().Pack(failed)
    return (("grpc-status-details-bin", status.SerializeToString()),)
