"""Makes the parts of the documentation that follow from the code, when the site is built. No prose of guides here.

A page names what belongs in it, ``<!-- made: cli -->``; ``docs/make/site.py`` has the list.
"""
