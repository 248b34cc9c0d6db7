"""Other libraries' surfaces on this one: a notebook written for them runs after a change of imports."""
