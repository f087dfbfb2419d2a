"""How a model's fields travel through Redis, and what pending writes come to.

Plain data and pure functions: nothing in here talks to Redis or asks the database.
"""
