"""Lists and watch events as the API server writes them, decoded in one pass around typed objects."""

from functools import reduce
from operator import or_
from typing import Any, Generic, TypeVar

import msgspec

from extender.cluster.errors import Status

T = TypeVar("T")

UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What a decoder raises on bytes that are not what it expects."""


class BareMetadata(msgspec.Struct, rename="camel"):
    """Enough to know an object by, and to go on after it."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class BareObject(msgspec.Struct):
    """An object of any kind."""

    metadata: BareMetadata


class ListMetadata(msgspec.Struct):
    """`metadata` of a list; `continue` is empty on the last page."""

    resource_version: str = msgspec.field(default="", name="resourceVersion")
    continue_token: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, Generic[T]):
    """One page of a list. Go writes an empty slice as null in some lists."""

    metadata: ListMetadata
    items: list[T] | None


class Event(msgspec.Struct, Generic[T], tag_field="type"):
    """Something happened to an object; this is its state after (`Deleted`: its last)."""

    object: T


class Added(Event[T], Generic[T], tag="ADDED"):
    """New, or newly selected, or unchanged since before the watch began."""


class Modified(Event[T], Generic[T], tag="MODIFIED"):
    """Changed."""


class Deleted(Event[T], Generic[T], tag="DELETED"):
    """Gone, or no longer selected."""


class Bookmark(msgspec.Struct, tag_field="type", tag="BOOKMARK"):
    """Nothing up to that version is missing; the object carries nothing else."""

    object: BareObject


class Failure(msgspec.Struct, tag_field="type", tag="ERROR"):
    """The watch is over."""

    object: Status


class AnyEvent(msgspec.Struct):
    """An event of a kind, or about an object, that we cannot read."""

    object: BareObject


ANY_EVENT = msgspec.json.Decoder(AnyEvent)
ANY_OBJECT = msgspec.json.Decoder(BareObject)
RAW_PAGE = msgspec.json.Decoder(Page[msgspec.Raw])


def page_decoder(item: type[T]) -> msgspec.json.Decoder[Page[T]]:
    """Decodes a page whose every object is an `item`."""
    page: Any = Page
    return msgspec.json.Decoder(page[item])


def event_decoder(
    item: type[T],
) -> msgspec.json.Decoder[Added[T] | Modified[T] | Deleted[T] | Bookmark | Failure]:
    """Decodes a line of a watch of `item`. The tag tells what the object is, so one pass does."""
    kinds: tuple[Any, ...] = (Added, Modified, Deleted)
    union: Any = reduce(or_, (kind[item] for kind in kinds), Bookmark | Failure)
    return msgspec.json.Decoder(union)
