"""A program that checks proofs of bounds on neural networks; see README.md beside this file."""
