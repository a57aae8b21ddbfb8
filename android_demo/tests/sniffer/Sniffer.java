import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.codehaus.mojo.animal_sniffer.ClassListBuilder;
import org.codehaus.mojo.animal_sniffer.SignatureChecker;
import org.codehaus.mojo.animal_sniffer.logging.PrintWriterLogger;

/**
 * {@code Sniffer SIGNATURE OWN... -- CLASS...}: what the classes call that neither the signature nor the own folders
 * and jars have.
 */
public final class Sniffer {
  private Sniffer() {}

  public static void main(String[] arguments) throws IOException {
    List<String> all = Arrays.asList(arguments);
    int end = all.indexOf("--");
    PrintWriterLogger logger = new PrintWriterLogger(System.out);
    ClassListBuilder own = new ClassListBuilder(logger);
    for (String path : all.subList(1, end)) own.process(new File(path));
    Set<String> known = new HashSet<>(own.getPackages());
    try (FileInputStream signature = new FileInputStream(arguments[0])) {
      SignatureChecker checker = new SignatureChecker(signature, known, logger);
      checker.setSourcePath(new ArrayList<File>());
      for (String path : all.subList(end + 1, all.size())) checker.process(new File(path));
    }
  }
}
