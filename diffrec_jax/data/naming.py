"""Which column of a file or frame holds the users, the items, the times, the ratings, the weights, the titles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

USUAL_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "customer_id", "visitor_id"),
    "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product_id", "sku", "venue"),
    "title": ("title", "name", "item_title", "item_name", "movie_title", "product_title", "product_name", "product"),
}
Names = dict[str, str]  # role ('user', 'item', 'time', 'rating', 'weight', 'title') -> column


def resolve(
    present: Sequence[str],
    asked: Mapping[str, str | None],
    where: object,
    *,
    typed: bool = False,
    flags: Mapping[str, str] | None = None,
) -> Names:
    """Role -> column.

    Spaces around a name do not count, unless a column is named with them.

    Args:
      present: the columns, in order.
      asked: the column named for each role; None takes the one with a usual name, or leaves the role out.
      where: what a sentence calls the file or frame.
      typed: columns are ``name:type``, as RecBole writes them, and may be named without their type.
      flags: the command line's flag of a role, where it is not ``--ROLE_col``.
    """
    names: Names = {}
    short = [(name.split(":")[0] if typed else name).strip() for name in present]
    for role, wanted in asked.items():
        if wanted is None:
            if role not in USUAL_NAMES:
                continue
            usual = [name for name, said in zip(present, short) if said.lower() in USUAL_NAMES[role]]
            if len(usual) != 1:
                problem = "several could be" if usual else "none is known as"
                flag = (flags or {}).get(role, f"{role}_col")
                raise ValueError(
                    f"{where}: which column is the {role}? Of {listed(present)} {problem} it; "
                    f"name it ({role}=…, --{flag}=…)"
                )
            names[role] = usual[0]
            continue
        wanted = str(wanted)
        found = [name for name in present if name == wanted]
        found = found or [name for name, said in zip(present, short) if wanted.strip() in (name.strip(), said)]
        if len(found) != 1:
            problem = "more than one column" if found else "no column"
            raise ValueError(f"{where} has {problem} {wanted!r} for the {role}; present are {listed(present)}")
        names[role] = found[0]
    first, second = list(asked)[:2]
    if names[first] == names[second]:
        raise ValueError(
            f"{where}: {names[first]!r} cannot be both {first} and {second}; present are {listed(present)}"
        )
    return names


def listed(names: Iterable[str]) -> str:
    """Columns as a sentence lists them, long names cut."""
    return ", ".join(repr(name if len(name) <= 60 else name[:60] + "…") for name in names)
