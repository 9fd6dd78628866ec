"""Other autoscalers as policies, each with its own defaults, so that they can be compared in the same world.

What each does is taken from its source or its documentation, named in its module. All of them say how many workers
shall be ready; which ones, and how many stopped ones are kept, is for all the same (`apply_target`).
"""
