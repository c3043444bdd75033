"""`migfit catalogue`: the GPUs we know, their profiles and layouts."""

import click

from extender.cli.output import columns, emit, fail, output_option
from extender.core.catalogue import PRODUCTS, Product, describe, layouts, lookup, maximal


@click.command()
@click.argument("product", required=False)
@output_option
def catalogue(product: str | None, output: str) -> None:
    """Print GPU products, or one of them with profiles and the number of its layouts.

    PRODUCT is a name of the list, a node label such as NVIDIA-H100-80GB-HBM3, or a part of a name.
    COMPUTE and MEMORY are in slices, MIB is usable memory, MOST how many one GPU can hold, STARTS the
    memory slices at which one can begin. Rows not CONFIRMED by a source have no usable memory; there
    a node's own label is what counts.
    """
    if product is None:
        emit([describe(each) for each in PRODUCTS.values()], output, _every)
        return
    found = lookup(product) if product.strip() else ()
    if not found:
        fail(f"no product {product!r} in the catalogue; `migfit catalogue` lists them")
    emit(
        [describe(each) for each in found],
        output,
        lambda: "\n\n".join(_one(each) for each in found),
    )


def _every() -> str:
    rows = [
        [
            each.name,
            each.compute_slices,
            each.memory_slices,
            round(each.bandwidth_bytes_s / 10**9),
            ", ".join(profile.name for profile in each.profiles),
        ]
        for each in PRODUCTS.values()
    ]
    return columns(["PRODUCT", "COMPUTE", "MEMORY", "GB/S", "PROFILES"], rows)


def _one(product: Product) -> str:
    rows = [
        [
            profile.name,
            profile.resource,
            profile.compute_slices,
            profile.memory_slices,
            profile.memory_mib if profile.confirmed else None,
            round(product.bandwidth_of(profile.name) / 10**9),
            profile.max_count,
            " ".join(map(str, profile.starts)),
            "yes" if profile.confirmed else "no",
        ]
        for profile in product.profiles
    ]
    head = [
        "PROFILE", "RESOURCE", "COMPUTE", "MEMORY", "MIB", "GB/S", "MOST", "STARTS", "CONFIRMED",
    ]  # fmt: skip
    every, full = layouts(product), maximal(product)
    return "\n".join(
        [
            f"{product.name}: {len(every)} layouts without special profiles, {len(full)} of them full",
            columns(head, rows),
        ]
    )
