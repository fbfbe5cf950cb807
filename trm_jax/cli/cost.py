"""`trm cost`: what runs have cost: device-hours, energy, dollars, beside their scores.

Training (its evaluations, compilations and what crashes lost included) and all that `trm eval` spent on it since.
Dollars are those of the table of `trm plan`, by the kinds of devices that did it. Energy is what the driver of a GPU
has counted, where it did all the time. Of a folder without a run its runs are taken. Runs that share a device each
count all of it. The picture has the published points of ARC-AGI-1 beside runs that were scored on its evaluation set:
claims of their authors, at their prices.

examples:
  trm cost runs/arc_transformer_low
  trm cost runs --picture cost.png
  trm cost runs/demo --price 0.10          dollars an hour of one device
  trm cost runs/demo --device h100         as if its device-hours had been those of an H100
"""

from __future__ import annotations

from trm_jax.cli.arguments import add_documented, any_path, check_free
from trm_jax.cli.plan import amount, print_table
from trm_jax.errors import InputError

_COLUMNS = ("", "devices", "training", "answers", "device-hours", "kWh", "dollars", "score")


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "cost", run, __doc__)
    parser.add_argument("runs", type=any_path, nargs="+", metavar="RUN", help="workdirs of runs, or folders of them")
    parser.add_argument("--price", type=amount, metavar="DOLLARS", help="of one device for an hour")
    parser.add_argument("--device", metavar="NAME", help="take the price of this device of `trm plan`")
    parser.add_argument("--picture", type=any_path, metavar="FILE.png", help="draw score against dollars there")
    parser.add_argument("--force", action="store_true", help="replace a picture that exists")


def run(args) -> int:
    from trm_jax.planning import find
    from trm_jax.planning.cost import cost, on_all_of_arc1, score
    from trm_jax.planning.hardware import PRICE_SOURCE
    from trm_jax.train.progress import duration

    if args.picture:
        check_free(args.picture, args.force)
    device = find(args.device) if args.device else None
    rows, points, hours, dollars = [], {}, 0.0, []
    for one in _runs(args.runs):
        spent, scored, name = cost(one), score(one), str(one.path)
        dollars.append(spent.dollars(device, args.price))
        hours += spent.device_s() / 3600
        rows.append(
            [
                name,
                spent.devices,
                duration(spent.device_s(training=True)),
                duration(spent.device_s(training=False)),
                f"{spent.device_s() / 3600:.3g}",
                "-" if spent.joules is None else f"{spent.joules / 3.6e6:.3g}",
                "-" if dollars[-1] is None else f"{dollars[-1]:.3g}",
                f"{scored[0]} {scored[1]:.4f}" if scored else "-",
            ]
        )
        if scored and dollars[-1] is not None:
            points[name] = (*scored, dollars[-1], on_all_of_arc1(one))
    if len(rows) > 1:
        total = "-" if None in dollars else f"{sum(dollars):.3g}"
        rows += [(), ("all", "", "", "", f"{hours:.3g}", "", total, "")]
    print_table(_COLUMNS, rows, words=(0, 1))
    if None in dollars:
        print("no price of that device in the table: give one with --price or --device")
    elif args.price is None:
        print(f"prices: {PRICE_SOURCE if device is None else device.price_source}")
    if args.picture:
        _draw(args.picture, points)
    return 0


def _runs(folders) -> list:
    """The runs at these folders, or in them. Raises InputError for a folder without one."""
    from trm_jax.configs.runs import find_runs, open_run
    from trm_jax.configs.workdir import CONFIG_FILE

    found = []
    for folder in folders:
        here = [open_run(folder)] if (folder / CONFIG_FILE).exists() else find_runs(folder, _raise)
        if not here:
            raise InputError(f"{folder} holds no run; name a folder that `trm train` has made")
        found += here
    return found


def _raise(problem: InputError) -> None:
    raise problem


def _draw(path, points: dict) -> None:
    from trm_jax.planning.cost import PUBLISHED
    from trm_jax.reports.content import Panel, Series
    from trm_jax.reports.pictures import panels_png
    from trm_jax.tasks.pictures import write_picture

    if not points:
        raise InputError("--picture: no run has both a score and a price; score them by `trm eval`, give --price")
    names = {name for name, *_ in points.values()}
    if len(names) > 1:
        raise InputError(f"--picture: the runs are scored by {' and '.join(sorted(names))}; draw one kind at a time")
    [name] = names
    series = [Series("run here", *_places(points.values()), names=list(points))]
    if name == "pass@2" and all(on_evaluation for *_, on_evaluation in points.values()):
        claims = [(name, value, dollars) for value, dollars in PUBLISHED.values()]
        series.append(Series("published (claims)", *_places(claims), names=list(PUBLISHED), color=1))
    title = "Score against lifetime cost" + ", ARC-AGI-1 public evaluation" * (len(series) > 1)
    write_picture(path, ".png", panels_png([Panel(title, "dollars, training and answers", name, series, "log")]))
    print(f"wrote {path}")


def _places(points) -> tuple[list[float], list[float]]:
    """(dollars, scores) of (name, score, dollars, ...)."""
    return [point[2] for point in points], [point[1] for point in points]
