"""The way from a row of scores to the next token: penalties change scores, filters choose candidates, the sampler draws
one.

Pure numpy. Nothing here holds a native pointer.
"""
