"""Chat templates in the manner of five model families, over the special tokens of the demo's tokenizer."""

from __future__ import annotations

END = "<|end|>"
TEMPLATE = "{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"


def template(before: str, after: str) -> str:
    """Every turn between the two, ROLE being its role; a generation prompt opens the turn of the assistant."""
    turn = before.replace("ROLE", "{{ m.role }}") + "{{ m.content }}" + after
    return TEMPLATE.format(turn=turn, opening=before.replace("ROLE", "assistant"))


TEMPLATES = {
    "ChatML": template("<start>ROLE\n", f"{END}\n"),
    "Llama 3": template("<header>ROLE</header>\n\n", END),
    "Gemma": template("<turn>ROLE\n", f"{END}\n"),
    "Zephyr": template("|ROLE|\n", f"{END}\n\n"),
    "Mistral": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
    f"{{{{ m.content }}}}{END}{{% endif %}}{{% endfor %}}",
    "none": None,
}
