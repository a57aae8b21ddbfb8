"""Training on a machine without network: recipes, data and what is missing there go in parts, run folders come back.

pack.py          here: makes the parts; order.py has the lists of recipes that are to be trained first
wheels.py        here: the packages that the other machine lacks
run.py           there: takes the parts, stands alone, needs Python only
work.py          there: one recipe after the other within a budget of minutes, in JAX; plan.py shares the minutes
learner.py       there: a recipe on its device: data, augmentation (augmentation.py) and steps without the host
delivery.py      there: results as few files; here: run folders of them
pixels.py        on both sides: images as few bytes without loss; store.py: a dataset in files of such
"""
