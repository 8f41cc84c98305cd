"""Erasing a process."""

from argparse import Namespace

from service.cli.api import Api, path_of
from service.cli.words import moment
from service.schemas import ErasureAnswer


async def erase(api: Api, arguments: Namespace) -> int:
    """Erase a process, and show the receipt: it is the only thing that stays."""
    query = {"everyone": "true"} if arguments.everyone else {}
    receipt = await api.delete(path_of(arguments.number), ErasureAnswer, **query)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in receipt.counts)
    print(f"{'erasure':10} {receipt.id}")
    print(f"{'asked':10} {moment(receipt.requested_at)}")
    print(f"{'erased':10} {counts}; the last files go within minutes")
    print(f"{'proof':10} {receipt.proof}")
    return 0
