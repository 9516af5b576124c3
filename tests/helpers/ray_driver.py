"""A command whose trials run on a cluster, on the model, recipe and text in a folder. It ends as
`edgeprune search` does.

    python ray_driver.py ADDRESS FOLDER STEPS...
"""

import sys
from pathlib import Path

from edgeprune.base.errors import MISTAKE, UserError
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.search.cluster import cluster
from edgeprune.search.prepare import Prepared, prepare
from edgeprune.search.settings import SearchRunSettings, Wish
from edgeprune.search.shape import Shape
from edgeprune.search.trial import Length, Trial, contents, recipe_of

SHAPES = [Shape((0, 1), (2, 2), (20, 30)), Shape((1,), (3,), (16,))]


def prepared_in(place: Path) -> Prepared:
    """A search on the model, recipe and text in a folder."""
    recipe = read_recipe(str(place / "recipe.yaml"))
    data = (str(place / "text.txt"),)
    return prepare(recipe, str(place / "model"), data, Wish(), SearchRunSettings(), place / "out")


def trials(prepared: Prepared, place: Path, *steps: int) -> list[Trial]:
    """A trial of each shape, of so many steps each, or all of as many."""
    found = []
    for number, shape in enumerate(SHAPES):
        length = Length(steps=steps[number % len(steps)])
        recipe = recipe_of(prepared.base, shape, length, None, brief=True)
        folder = place / str(number)
        found.append(Trial(contents(recipe), str(folder), str(place / f"answers-{number}")))
    return found


if __name__ == "__main__":
    address, folder, *lengths = sys.argv[1:]
    ready = prepared_in(Path(folder))
    try:
        with cluster(ready, None, address) as workers:
            tried = workers.run(trials(ready, Path(folder) / "trials", *map(int, lengths)))
    except UserError as error:
        print(f"edgeprune: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    print(*(each.distance for each in tried))
