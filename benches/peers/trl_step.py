"""GRPO steps by TRL's GRPOTrainer on the same work: one line of JSON.

    python trl_step.py --checkpoint checkpoint16

Not its defaults: no gradient checkpointing and f32, which are faster here; the loss is GRPO's, without a reference.
"""

import tempfile
import time

import fixture

args = fixture.sizes().parse_args()

from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

model, processor, image_tokens = fixture.load(args)
data = Dataset.from_list(fixture.rows(args.prompts * (args.steps + 1), args, processor, image_tokens))
rows = args.prompts * args.group
seconds, sampling = [], []


def reward(completion_ids, **_):
    lengths = {len(ids) for ids in completion_ids}
    assert lengths == {args.new_tokens}, f"completions of {lengths} tokens"
    return [fixture.reward(ids) for ids in completion_ids]


class Clock(TrainerCallback):
    """Seconds of every step but the first, which warms up."""

    began, generated = 0.0, 0.0

    def on_step_end(self, _, state, __, **___):
        now = time.perf_counter()
        if state.global_step > 1:
            seconds.append(now - self.began)
            sampling.append(self.generated)
        self.began, self.generated = now, 0.0


watch = Clock()
with tempfile.TemporaryDirectory() as folder:
    config = GRPOConfig(
        output_dir=folder, seed=0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=rows, num_generations=args.group,
        max_completion_length=args.new_tokens, generation_kwargs={"min_new_tokens": args.new_tokens},
        temperature=1.0, beta=0.0, num_iterations=1, loss_type="grpo", optim="adamw_torch_fused",
        learning_rate=1e-6, max_steps=args.steps + 1, shuffle_dataset=False,
    )
    trainer = GRPOTrainer(
        model=model, args=config, train_dataset=data, reward_funcs=reward, processing_class=processor,
        callbacks=[watch],
    )
    generate = trainer._generate_single_turn

    def timed(*positional, **named):
        began = time.perf_counter()
        try:
            return generate(*positional, **named)
        finally:
            watch.generated += time.perf_counter() - began

    trainer._generate_single_turn = timed
    trainer.train()
fixture.report("trl", args, seconds, sampling, [whole - part for whole, part in zip(seconds, sampling)])
