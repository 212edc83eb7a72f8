"""`readqg compare`: which of two rankings is better, without judgments. Somebody sees both for queries of their own, blind and side by
side, and says which; sign test and interval say whether that is more than chance.
"""
