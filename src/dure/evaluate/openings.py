"""What a model is asked to write its own calibration text about. Refuses to know who writes.

Languages, code, mathematics, facts, forms and voices, so that most of what a model can do is used. A change
changes what the same command computes: `imatrix_progress` then begins anew.
"""

from __future__ import annotations

__all__ = ["OPENINGS"]

OPENINGS = (
    "Explain how the tides work.",
    "Write a Python function that merges two sorted lists, with tests.",
    "Solve step by step: a train leaves at 9:40 at 80 km/h, one at 10:10 at 110 km/h. When do they meet?",
    "Erzähle eine kurze Geschichte über einen Leuchtturmwärter.",
    "Describe the causes of the French Revolution.",
    "请介绍一下长城的历史。",
    "Write a letter to a landlord about a leaking roof.",
    "Escribe una receta de lentejas para cuatro personas.",
    "Implement a binary search tree in C, and explain its costs.",
    "Prove that the square root of 2 is irrational.",
    "Write a dialogue between a detective and a baker.",
    "Explique la photosynthèse à un enfant de dix ans.",
    "日本の四季について説明してください。",
    "Give me a table of the planets with their sizes and distances from the sun.",
    "Write an SQL query that finds the ten customers who spent most last year, and explain it.",
    "What is the difference between a virus and a bacterium?",
    "Расскажи, как устроен двигатель внутреннего сгорания.",
    "Write a poem about autumn in a harbour town.",
    "Explain what a mortgage is and compare fixed and variable rates.",
    "Write a JavaScript class for a queue with a limit, and an example of its use.",
    "اكتب فقرة عن أهمية القراءة.",
    "Derive the quadratic formula.",
    "Write the minutes of a meeting about moving an office.",
    "Descreva uma viagem de trem pelo interior do Brasil.",
    "How does a compiler turn source code into machine code?",
    "Write a product description for a waterproof backpack.",
    "서울에서 하루 동안 가볼 만한 곳을 추천해 주세요.",
    "Explain the rules of chess to someone who knows draughts.",
    "Write a shell script that backs up a folder every night, and comment it.",
    "What are the arguments for and against nuclear power?",
    "Spiega come si prepara il pane con il lievito madre.",
    "Return a JSON object that describes a book, its authors and its chapters.",
    "Tell the story of a robot who learns to paint.",
    "Calculate the integral of x squared times e to the x, and check the result.",
    "हिंदी में बताइए कि वर्षा कैसे होती है।",
    "Write a Rust program that counts the words of a file, and explain ownership in it.",
    "Summarise the plot of Hamlet in ten sentences.",
    "List ten ways to save energy at home, the most effective first.",
    "Opowiedz o życiu pszczół w ulu.",
    "Write a news report about a storm at the coast.",
    "Explain Bayes' theorem with a medical test as the example.",
    "Write an HTML page with a form and the CSS for it.",
    "Türkiye'de çay kültürünü anlat.",
    "What did Einstein's theory of relativity change?",
    "Write a cover letter for a job as a gardener.",
    "Hãy kể về một phiên chợ nổi trên sông.",
    "Compare TCP and UDP, and say when to use which.",
    "Give medical students a short overview of the human heart.",
)
