"""HTML pages of published runs and evaluations, with their pictures and charts. Figures come from evaluation/; the page
of a training run belongs to training/.
"""
