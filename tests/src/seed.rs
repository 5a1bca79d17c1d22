//! Seeds of campaigns and of the samples of them: each run has its own, says it, and can be had again.

use anyhow::{Context, Result};

/// The seed of this run: that of `ASTROMESH_SEED`, or a new one.
///
/// # Errors
/// When the variable is no number.
pub fn seed() -> Result<u64> {
    let seed = match number("ASTROMESH_SEED")? {
        Some(seed) => seed,
        None => fresh()?,
    };
    eprintln!("seed {seed} (ASTROMESH_SEED={seed} repeats this run)");
    Ok(seed)
}

/// A seed that nobody has had.
///
/// # Errors
/// When the kernel gives none.
pub fn fresh() -> Result<u64> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let digits = uuid.get(..8).context("a UUID has eight digits")?;
    Ok(u64::from_str_radix(digits, 16)?)
}

/// A number from the environment.
///
/// # Errors
/// When the variable is there and is no number.
pub fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => {
            let value = text.parse();
            value
                .map(Some)
                .with_context(|| format!("{name}={text} is not a number"))
        }
        Err(_) => Ok(None),
    }
}
