"""The packages that maskora stands on: python scripts/packages.py, with --sbom as a CycloneDX list.

Prints name, version and licence of what is installed of them, directly or through others, as their
own metadata says. Run it with the Python that maskora is installed for.
"""

import argparse
import json
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OWN, EXTRAS = "maskora", ("gui", "quant", "multigpu", "cluster", "dev")
CLASSIFIER = "License :: OSI Approved :: "


def installed(extras: Iterable[str] = EXTRAS) -> dict[str, tuple[Distribution, list[str]]]:
    """Name -> a package and the names of those that it needs; what is not installed is left out.

    Args:
        extras: of maskora.
    """
    found: dict[str, tuple[Distribution, list[str]]] = {}
    seen, waiting = set(), [(OWN, tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        needs = [one for one in map(Requirement, package.requires or ()) if applies(one, wanted)]
        names = {canonicalize_name(one.name): tuple(sorted(one.extras)) for one in needs}
        waiting += names.items()
        _, earlier = found.get(name, (package, []))
        found[name] = package, sorted({*earlier, *names})
    return dict(sorted(found.items()))


def applies(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    """Whether a requirement counts on this system, with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def licence(package: Distribution) -> str:
    """As its metadata says: an expression, else its classifiers, else the first line of a text."""
    told = package.metadata.json
    if expression := told.get("license_expression"):
        return str(expression)
    known = [one for one in told.get("classifier", ()) if one.startswith(CLASSIFIER)]
    if known:
        return ", ".join(one.removeprefix(CLASSIFIER) for one in known)
    lines = str(told.get("license", "")).strip().splitlines()
    return lines[0] if lines else "not said"


def address(package: Distribution) -> str:
    """Its package URL."""
    name = canonicalize_name(package.metadata["Name"])
    return f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}"


def bill_of_materials(found: dict[str, tuple[Distribution, list[str]]]) -> dict[str, Any]:
    """The list in CycloneDX's form (https://cyclonedx.org), of what `installed` gives."""
    components = {
        name: {
            "type": "application" if name == OWN else "library",
            "bom-ref": address(package),
            "name": package.metadata["Name"],
            "version": package.version,
            "purl": address(package),
            "licenses": [{"license": {"name": licence(package)}}],
        }
        for name, (package, _) in found.items()
    }
    needed = [
        {"ref": address(package), "dependsOn": [address(found[n][0]) for n in needs if n in found]}
        for package, needs in found.values()
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": components.pop(OWN)},
        "components": [*components.values()],
        "dependencies": needed,
    }


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sbom", action="store_true", help="as CycloneDX JSON")
    parser.add_argument(
        "--extra", action="append", choices=EXTRAS, help="of maskora; all, if not said"
    )
    given = parser.parse_args()
    found = installed(given.extra or EXTRAS)
    if given.sbom:
        print(json.dumps(bill_of_materials(found), indent=2))
        return
    for name, (package, _) in found.items():
        print(f"{name:<28} {package.version:<16} {licence(package)}")


if __name__ == "__main__":
    main()
