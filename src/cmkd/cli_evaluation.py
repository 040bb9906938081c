"""What `cmkd evaluate` prints: the numbers of `evaluation.json` that fit on a screen."""

from __future__ import annotations

from typing import Any

from cmkd.cli_output import print_table

#: Classes shown at either end.
_SHOWN = 3


def print_evaluation(found: dict[str, Any], title: str) -> None:
    """Print tables, and below them what is missing and why.

    Args:
        found: What `cmkd.training.evaluate` returns.
        title: Heading of the first table.
    """
    networks: list[str] = [name for name in ("student", "teacher") if name in found]
    print_table([title, *networks], _scores(found, networks))
    print("In [ ]: 95 % confidence intervals (Wilson).")
    if "teacher" in networks and (seen := found["setting"]["teacher"]["trained_on"]) != 0:
        how_many = "nobody knows how many" if seen is None else f"{seen:,}"
        print(f"The teacher was trained on {how_many} of these images, where it is better than elsewhere.")
    _print_classes(found, networks)
    if "fidelity" in found:
        _print_fidelity(found["fidelity"])
    if "robustness" in found:
        _print_robustness(found["robustness"], networks)
    print_table(["cost", *networks], _costs(found["cost"]))
    for what, why in found["missing"].items():
        print(f"{what}: {why}")


def _scores(found: dict[str, Any], networks: list[str]) -> list[list[str]]:
    accuracy, calibration = found["accuracy"], found["calibration"]
    rows = [["accuracy", *(_share(accuracy[name]["top1"]) for name in networks)]]
    if "top5" in accuracy["student"]:
        rows.append(["top 5", *(_share(accuracy[name]["top5"]) for name in networks)])
    for key, heading in (("nll", "NLL"), ("ece", "ECE"), ("brier", "Brier")):
        rows.append([heading, *(f"{calibration[name][key]:.3f}" for name in networks)])
    scaled = [calibration[name].get("scaled") for name in networks]
    if any(scaled):
        rows.append(["temperature", *(_temperature(each) if each else "" for each in scaled)])
        for key, heading in (("nll", "NLL"), ("ece", "ECE"), ("brier", "Brier")):
            rows.append([f"{heading}, scaled", *(f"{each[key]:.3f}" if each else "" for each in scaled)])
    if "fidelity" in found:
        rest = [""] * (len(networks) - 1)
        student = found["student"]
        rows.append(["agreement with teacher", _share(found["fidelity"]["agreement"]), *rest])
        for key, heading in (
            ("rank_correlation", "rank correlation with teacher"),
            ("value_correlation", "value correlation with teacher"),
            ("teacher_kl", "KL from teacher"),
        ):
            rows.append([heading, f"{student[key]:.3f}", *rest])
        wrong = accuracy["mistakes"]
        rows.append(["wrong, the other one right", *(_share(wrong[f"{name}_only"]) for name in networks)])
    return rows


def _temperature(scaled: dict[str, Any]) -> str:
    return f"{scaled['temperature']:.3f}{' (at the limit)' if scaled['at_limit'] else ''}"


def _print_classes(found: dict[str, Any], networks: list[str]) -> None:
    """Print the classes that the student does best and worst."""
    per_class = {name: found["accuracy"][name]["per_class"] for name in networks}
    images = per_class["student"]["images"]
    met = [each for each, count in enumerate(images) if count]
    met.sort(key=lambda each: per_class["student"]["right"][each] / images[each], reverse=True)
    shown = met if len(met) <= 2 * _SHOWN else [*met[:_SHOWN], *met[-_SHOWN:]]
    changes = found["accuracy"].get("mistakes", {}).get("per_class")
    header = ["best and worst classes", "images", *networks]
    rows = []
    for each in shown:
        row = [found["classes"][each], str(images[each])]
        row += [f"{per_class[name]['right'][each] / images[each]:.1%}" for name in networks]
        if changes:
            row += [str(changes["gains"][each]), str(changes["losses"][each])]
        rows.append(row)
    print_table(header + (["gained", "lost"] if changes else []), rows)


_FIDELITY = (
    ("kl", "KL from teacher"),
    ("pearson", "Pearson"),
    ("spearman", "Spearman"),
    ("kendall", "Kendall tau-b"),
    ("top5_overlap", "overlap of the top 5"),
    ("non_target_spearman", "Spearman without the label's class"),
)


def _print_fidelity(fidelity: dict[str, Any]) -> None:
    header = ["image by image, to the teacher", "mean", *(f"{at:.0%}" for at in fidelity["quantiles_at"])]
    rows = [
        [heading, *(f"{value:.3f}" for value in (fidelity[key]["mean"], *fidelity[key]["quantiles"]))]
        for key, heading in _FIDELITY
        if key in fidelity
    ]
    print_table(header, rows)


def _print_robustness(robustness: dict[str, Any], networks: list[str]) -> None:
    severities = robustness["severities"]
    header = ["accuracy under", *networks, *(["agreement"] if "teacher" in networks else [])]
    header += [f"student, {severity}" for severity in severities]
    clean = robustness["clean"]
    rows = [["no corruption", *(f"{clean[name]['value']:.1%}" for name in clean)] + [""] * len(severities)]
    for name, found in robustness["corruptions"].items():
        rows.append(
            [
                name,
                *(_mean(found["accuracy"][each]) for each in networks),
                *([_mean(found["agreement"])] if "agreement" in found else []),
                *(f"{value:.1%}" for value in found["accuracy"]["student"]),
            ]
        )
    summary = robustness["summary"]
    means = [f"{summary[name]['mean_accuracy']:.1%}" for name in networks]
    agreement = [f"{summary['agreement']:.1%}"] if "agreement" in summary else []
    rows.append(["mean", *means, *agreement, *[""] * len(severities)])
    print_table(header, rows)
    part = "" if robustness["images"] == robustness["of"] else f" of {robustness['of']:,}, stratified"
    rises = ", ".join(f"{name} {100 * summary[name]['error_increase']:+.1f} points" for name in networks)
    print(
        f"{robustness['images']:,} images{part}, seed {robustness['seed']}, strengths of "
        f"{robustness['strengths']}; {robustness['images_per_second']:,.0f} images/s, corrupting alone "
        f"{robustness['corrupted_per_second']:,.0f}. Error over that without corruption: {rises}."
    )
    if summary.get("error_to_teacher") is not None:
        print(
            "Student's error over the teacher's, mean over the corruptions: "
            f"{summary['error_to_teacher']:.3f}."
        )


def _costs(costs: dict[str, Any]) -> list[list[str]]:
    each = list(costs.values())
    rows = [
        ["parameters", *(f"{cost['parameters']:,}" for cost in each)],
        ["MACs", *(f"{cost['macs'] / 1e6:,.1f} M" for cost in each)],
        ["weights", *(f"{cost['weight_bytes'] / 1e6:,.2f} MB" for cost in each)],
    ]
    for device in (name for name in each[0] if isinstance(each[0][name], dict)):
        name = device.upper()
        speeds = [cost[device] for cost in each]
        rows.append([f"{name} latency, median", *(f"{speed['latency_ms']:.2f} ms" for speed in speeds)])
        rows.append(
            [
                "  10 to 90 %",
                *(f"{speed['latency_p10_ms']:.2f} to {speed['latency_p90_ms']:.2f} ms" for speed in speeds),
            ]
        )
        heading = f"{name} throughput, batches of {speeds[0]['batch']}"
        rows.append([heading, *(f"{speed['images_per_second']:,.0f} images/s" for speed in speeds)])
    return rows


def _share(share: dict[str, Any]) -> str:
    return f"{share['value']:.2%} [{100 * share['low']:.2f}, {100 * share['high']:.2f}]"


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.1%}"
