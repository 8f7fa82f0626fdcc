//! Results on standard output.

use std::io::Write;

/// Shows a line of results.
macro_rules! print_line {
    ($($argument:tt)*) => {
        $crate::output::show(&format!("{}\n", format_args!($($argument)*)))
    };
}

/// Shows a text. A reader that has seen enough (`kyoka recipes | head -1`) ends the program in silence, as other commands
/// end; any other fault of standard output is said.
pub fn show(text: &str) {
    let mut out = std::io::stdout();
    let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else { return };
    if error.kind() != std::io::ErrorKind::BrokenPipe {
        crate::stopping::say(&format!("error: standard output: {error}"));
    }
    std::process::exit(1);
}
