# Regular expressions and hashes.
my (%count, $vowels);
open my $in, '<', 'text' or die;
while (<$in>) {
	$count{$1}++ while /(\w+)/g;
	$vowels += tr/aeiou//;
	s/(\w)(\w+)/$2$1/g;
}
my @words = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print scalar(@words), " $words[0] $count{$words[0]} $vowels\n";
