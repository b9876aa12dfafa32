"""Tables of an evaluation, as Markdown, from its flat rows (see evaluate.py)."""

from collections.abc import Iterator
from typing import Any

from minisora.metrics import Row, percent, pivot
from minisora.world import get

SPLITS = {"train": "seen", "held_out": "held-out pairs", "held_out_motion": "held-out motions"}
WORLDS = {"shapes": "one object", "pairs": "two objects", "events": "an event"}
LABELS: dict[str, str] = SPLITS | WORLDS


def select(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows that agree with what is wanted."""
    return [row for row in rows if all(row.get(k) == value for k, value in wanted.items())]


def one(rows: list[Row], **wanted: Any) -> Row:
    """The only row that agrees with what is wanted."""
    (row,) = select(rows, **wanted)
    return row


def label(row: Row) -> str:
    """What a row's clips are called in tables: "seen", "held-out pairs", "seen, images"."""
    split = LABELS.get(row["split"], str(row["split"]))
    return f"{split}, images" if row["frames"] == 1 else split


def seen(rows: list[Row], **wanted: Any) -> Row:
    """The only row of whole clips of the training split that agrees with what is wanted."""
    frames = max(row["frames"] for row in rows)
    return one(rows, split="train", frames=frames, **wanted)


def score_cells(rows: list[Row], world: str) -> Iterator[tuple[str, str, str]]:
    """The cells of a table of measures and splits, with the chance level and the ceiling."""
    for measure in get(world).scores:
        line = "**all of it**" if measure == "all" else measure
        for row in select(rows, world=world, source="sampled", measure=measure):
            still = measure == "motion" and row["frames"] == 1  # an image has no motion
            yield line, label(row), "" if still else percent(row)
        chance = seen(rows, world=world, source="sampled", measure=measure)["chance"]
        ceiling = seen(rows, world=world, source="vae", measure=measure)["right"]
        yield line, "chance (seen)", f"{100 * chance:.1f}"
        yield line, "ceiling (seen)", f"{100 * ceiling:.1f}"


def decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def captioner_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """The cells of a table of what the captioner says of true and of sampled clips."""
    heads = {"caption": "captions right", "cosine": "cosine with prompt", "frechet": "Frechet"}
    for row in rows:
        if row["measure"] in heads:
            world = LABELS.get(row["world"], row["world"])
            value = f"{100 * row['right']:.1f}" if "right" in row else decimal(row["value"])
            yield f"{world}, {label(row)}", f"{heads[row['measure']]}: {row['source']}", value


def summary_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """The cells of the headline table: "all right" of every kind of prompt and split."""
    for row in select(rows, source="sampled", measure="all"):
        world = LABELS.get(row["world"], str(row["world"]))
        name = f"images of {world}" if row["frames"] == 1 else world
        yield name, LABELS.get(row["split"], str(row["split"])), percent(row)
    for row in select(rows, source="short prompts"):
        yield f'short prompts ("red circle"), {row["measure"]}', "seen", percent(row)
    worlds = dict.fromkeys(row["world"] for row in rows)
    for row in select(rows, source="vae", measure="all", world=next(iter(worlds))):
        if row["frames"] > 1:
            yield "ceiling: true clips after the VAE", label(row), f"{100 * row['right']:.1f}"


def summary(result: dict[str, Any]) -> str:
    """The headline table, as Markdown."""
    corner = f"everything right, % of {result['clips']} prompts"
    return pivot(summary_cells(result["rows"]), corner)


def reconstruction(rows: list[Row]) -> str:
    """The VAE beside the linear PCA, in one sentence."""
    world = select(rows, source="pca")[0]["world"]
    parts = []
    for source, name in (("vae", "the VAE"), ("pca", "linear PCA at equal compression")):
        quality = seen(rows, world=world, source=source, measure="psnr")["value"]
        right = 100 * seen(rows, world=world, source=source, measure="all")["right"]
        parts.append(f"{name} {quality:.1f} dB, {right:.1f}% all right")
    return f"Reconstruction of seen clips: {'; '.join(parts)}."


def all_tables(result: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    rows, clips = result["rows"], result["clips"]
    worlds = dict.fromkeys(row["world"] for row in rows)
    tables = [
        pivot(score_cells(rows, w), f"% right of {clips}, {LABELS.get(w, w)}") for w in worlds
    ]
    parts = [summary(result), reconstruction(rows), *tables]
    if any(row["measure"] == "caption" for row in rows):
        parts.append(pivot(captioner_cells(rows), "what the captioner says"))
    return "\n\n".join(parts)


def sizes_cells(rows: list[Row], usual: Row) -> Iterator[tuple[str, str, str]]:
    """ "All right" of every size: clips of each world, and images."""
    for row in select(rows, measure="all", mode="text"):
        world = LABELS.get(row["world"], str(row["world"]))
        if row["frames"] in (1, usual["frames"]):
            yield (
                size_label(row),
                f"images of {world}" if row["frames"] == 1 else world,
                percent(row),
            )


def lengths_cells(rows: list[Row], usual: Row) -> Iterator[tuple[str, str, str]]:
    """ "All right" of every length at the usual size, and of the attributes."""
    size = {name: usual[name] for name in ("height", "width")}
    lengths = select(rows, mode="text", world="shapes", **size)
    for row in sorted(lengths, key=lambda row: row["frames"]):
        if row["measure"] in ("color", "shape", "motion", "clean", "all"):
            known = "" if row["frames"] in usual["durations"] else " *"
            yield f"{row['frames']} frames{known}", str(row["measure"]), percent(row)


def modes_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """ "All right" and the far end of every mode, at every size and length."""
    for row in rows:
        if row["mode"] != "text" and row["measure"] in ("all", "far end"):
            column = row["mode"] if row["measure"] == "all" else f"{row['mode']}, far end"
            yield f"{size_label(row)}, {row['frames']} frames", column, percent(row)


def size_label(row: Row) -> str:
    """ "24 x 40", with a star if clips of this size were not trained on."""
    return f"{row['height']} x {row['width']}{'' if row['trained_size'] else ' *'}"


def breadth_tables(result: dict[str, Any]) -> str:
    """The tables of sizes, lengths and modes, as Markdown (see breadth.py)."""
    rows, head = result["rows"], f"everything right, % of {result['clips']} prompts"
    usual = next(row for row in rows if row["mode"] == "text")
    usual = usual | {"durations": {row["frames"] for row in rows if row["trained_length"]}}
    tables = [
        pivot(sizes_cells(rows, usual), f"{head}, {usual['frames']} frames"),
        pivot(lengths_cells(rows, usual), f"{head}, {size_label(usual)}"),
        pivot(modes_cells(rows), head),
    ]
    return "\n\n".join([*tables, "\\* not trained on"])


def ways_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """What is right of every mode, beside its baselines."""
    measures = {"all": "all right", "lawful": "all right", "far end": "far end right"}
    for row in rows:
        if row["source"].startswith(("sampled", "baseline")) and row["measure"] in measures:
            world = f", {LABELS[row['world']]}" if "world" in row else ""
            frames = f", {row['frames']} frames" if "frames" in row else ""
            source = row["source"].removeprefix("baseline: ")
            line = f"{row['mode']}{world}{frames}: {source}"
            yield line, measures[row["measure"]], percent(row)
        elif row["source"] == "sampled" and row["measure"].startswith("lawful: "):
            kind = row["measure"].removeprefix("lawful: ")
            yield f"{row['mode']}, {kind}: sampled", "all right", percent(row)


def edit_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """What edits change, and what they keep, by method and strength."""
    for row in select(rows, mode="edit"):
        line = f"{row['method']}, strength {row['strength']}"
        if row["measure"] in ("changed", "all", "path kept", "just that"):
            yield line, f"{row['changed']}: {row['measure']}", f"{100 * row['right']:.0f}"


def given_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """What is right by the number of given frames."""
    for row in select(rows, mode="given frames"):
        if row["measure"] in ("all", "far end"):
            yield f"{row['given']} of {row['frames']}", str(row["measure"]), percent(row)


def survival_cells(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """What is right after so many seconds of a long clip."""
    names = {"sampled": "", "vae": "true clips after the VAE: "}
    for row in select(rows, mode="roll-out"):
        column = names.get(row["source"], f"{row['source']}: ") + str(row["measure"])
        yield f"{row['second']} s", column, f"{100 * row['right']:.0f}"


def prompting_tables(result: dict[str, Any]) -> str:
    """The tables of prompts with images and videos, as Markdown (see prompting.py)."""
    rows = [row for row in result["rows"] if row["mode"] not in ("given frames",)]
    ways = [row for row in rows if row["mode"] not in ("edit", "roll-out")]
    parts = [
        pivot(ways_cells(ways), f"% of {result['clips']} clips"),
        pivot(given_cells(result["rows"]), "given frames"),
        pivot(edit_cells(rows), "edits, % of clips"),
        pivot(survival_cells(rows), "a minute, % of 64 clips"),
    ]
    return "\n\n".join(parts)
