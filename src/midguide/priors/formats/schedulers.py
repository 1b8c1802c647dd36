"""What the schedulers of the diffusers library state: the forward process, and what a network predicts."""

from __future__ import annotations

import math
from typing import Any

from midguide.diffusion.schedules import DiscreteVP, RectifiedFlow, Schedule
from midguide.errors import ConfigError
from midguide.priors.formats.weights import to_load_prior
from midguide.priors.settings import PriorSettings

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETA_SCHEDULES = {"linear": DiscreteVP.linear, "scaled_linear": DiscreteVP.scaled_linear}
COSINE = "squaredcos_cap_v2"
STATES_BETAS = ("beta_schedule", "num_train_timesteps", "beta_start", "beta_end", "trained_betas")
SCHEDULER_KEYS = set(
    "beta_schedule num_train_timesteps beta_start beta_end trained_betas prediction_type rescale_betas_zero_snr "
    "use_flow_sigmas timestep_type "  # used; the rest says how to walk with that scheduler, which samplers decide here
    "sigma_min sigma_max variance_type clip_sample clip_sample_range thresholding dynamic_thresholding_ratio "
    "sample_max_value eta original_inference_steps predictor_order corrector_order tau_func scale_factors upscale_mode "
    "timestep_spacing steps_offset set_alpha_to_one skip_prk_steps algorithm_type solver_order solver_type "
    "lower_order_final euler_at_final use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas "
    "final_sigmas_type lambda_min_clipped interpolation_type rho s_noise noise_sampler_seed predict_x0 "
    "disable_corrector solver_p shift use_dynamic_shifting base_shift max_shift base_image_seq_len max_image_seq_len "
    "invert_sigmas shift_terminal time_shift_type stochastic_sampling flow_shift snr_shift_scale".split()
)
"""What schedulers of the library state, used or known not to matter to a prior."""
FLOW_TIMES = 1000.0  # flow-matching networks of diffusers are told t times this


def stated_by(config: dict[str, Any]) -> PriorSettings:
    schedule, prediction = read_scheduler(config)
    steps = float(config.get("num_train_timesteps", FLOW_TIMES))
    label = (lambda t: steps * t) if isinstance(schedule, RectifiedFlow) else None
    return PriorSettings(prediction=prediction, schedule=schedule, label=label)


def read_scheduler(config: dict[str, Any]) -> tuple[Schedule, str]:
    """The forward process and the prediction that a diffusers scheduler's configuration states.

    Raises:
        ConfigError: If the process or the prediction is unknown here, or the betas are not betas.
    """
    kind = str(config.get("_class_name", ""))
    named = str(config.get("prediction_type", "epsilon"))  # files older than the setting predict eps
    flows = bool(config.get("use_flow_sigmas")), named == "flow_prediction"
    if "FlowMatch" in kind or all(flows):  # betas beside them mean nothing
        return RectifiedFlow(), "flow"
    if any(flows):
        raise ConfigError(
            f"the scheduler {kind} has prediction_type {named!r} and use_flow_sigmas {flows[0]}: flow or betas?",
            hint="a network trained on a flow has flow_prediction and true; correct scheduler_config.json",
        )
    other_labels = config.get("timestep_type", "discrete") != "discrete"
    if "EDM" in kind or "VeScheduler" in kind or "beta_schedule" not in config or other_labels:
        raise ConfigError(
            f"the scheduler {kind or 'of no class'} is not one whose networks are known",
            hint="load the network yourself; " + to_load_prior("it with prediction, schedule and event_shape"),
        )
    if named not in PREDICTION_TYPES:
        raise ConfigError(f"unknown prediction_type `{named}`", hint=f"known: {', '.join(PREDICTION_TYPES)}")
    return _discrete(config), PREDICTION_TYPES[named]


def _discrete(config: dict[str, Any]) -> DiscreteVP:
    """The process of the betas that a configuration states, and of nothing but noise at last where it says so."""
    kinds = [*BETA_SCHEDULES, COSINE]
    if config.get("trained_betas") is None and (kind := config["beta_schedule"]) not in kinds:
        raise ConfigError(f"unknown beta_schedule `{kind}`", hint=f"known: {', '.join(kinds)}, and trained_betas")
    try:
        schedule = _of_betas(config)
        return _without_last_signal(schedule) if config.get("rescale_betas_zero_snr") else schedule
    except (TypeError, ValueError, ArithmeticError, ConfigError):
        stated = ", ".join(f"{name} {config[name]!r}" for name in STATES_BETAS if config.get(name) is not None)
        raise ConfigError(
            f"the scheduler states no betas between 0 and 1: {stated[:200]}",
            hint="correct scheduler_config.json, by default num_train_timesteps 1000, beta_start 0.0001, beta_end 0.02",
        ) from None


def _of_betas(config: dict[str, Any]) -> DiscreteVP:
    steps, kind = config.get("num_train_timesteps", 1000), config["beta_schedule"]
    if config.get("trained_betas") is not None:
        return DiscreteVP.from_betas(config["trained_betas"])
    if kind == COSINE:
        return DiscreteVP.cosine(steps)
    return BETA_SCHEDULES[kind](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))


def _without_last_signal(schedule: DiscreteVP) -> DiscreteVP:
    """Square roots of `alphas_cumprod` shifted and scaled so that the last is zero (Lin et al. 2024, Algorithm 1)."""
    roots = [math.sqrt(value) for value in schedule.alphas_cumprod]
    first, last = roots[0], roots[-1]
    return DiscreteVP(tuple(((root - last) * first / (first - last)) ** 2 for root in roots))
