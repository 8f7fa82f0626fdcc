//! Trains a recipe that may name the fork's parts.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use kyoka::{Quiet, Recipe};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("expected a recipe, got none")?;
    let outcome = x_fork::run(Recipe::named(&name)?).train(&mut Quiet)?;
    println!("{}", outcome.run_folder.display());
    Ok(())
}
