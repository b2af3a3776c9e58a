"""Trainings of several sizes, measured at several computes, and the law they follow."""
