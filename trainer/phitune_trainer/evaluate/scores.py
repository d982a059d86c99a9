"""How an answer is scored."""

METRIC = "exactMatch"


def exact_match(prediction: str, answers: list[str]) -> float:
    """1 if the prediction is one of the answers, white space around them aside, else 0."""
    return float(prediction.strip() in {answer.strip() for answer in answers})
